"""One small service on both stacks, each with six planted bugs, to see which test finds which.

Who has joined a room hears what is said there, with a number. Who rings waits until somebody answers. `mark` comes back behind
everything that was sent before, so that a test need not wait for what does not come. Each stack has a module, with a class
`Room` and a class for each bug. `QUEUE_URL` is the address of the broker between processes.
"""

import os

QUEUE_URL = os.environ.get("QUEUE_URL")

BUGS = {
    "origin": "no origin check",
    "join": "a room that is not joined",
    "leave": "a room that is not left",
    "name": "a name that nobody listens to",
    "wait": "one who waits holds up all",
    "count": "each process counts alone",
}
"""Each bug's name in paths and namespaces, and what it is."""
