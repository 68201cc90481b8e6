"""A Django project as small as it gets: rooms, in each of which everyone hears what anyone says."""
