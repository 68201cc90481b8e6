PRAGMA journal_mode = WAL;

CREATE TABLE IF NOT EXISTS session (
  key TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  since REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS room (
  name TEXT PRIMARY KEY,
  private INTEGER NOT NULL DEFAULT 0
);

-- Who may join a private room.
CREATE TABLE IF NOT EXISTS member (
  room TEXT NOT NULL REFERENCES room,
  name TEXT NOT NULL,
  PRIMARY KEY (room, name)
);

CREATE TABLE IF NOT EXISTS message (
  room TEXT NOT NULL REFERENCES room,
  id INTEGER NOT NULL,
  author TEXT NOT NULL,
  text TEXT NOT NULL,
  at TEXT NOT NULL,
  PRIMARY KEY (room, id)
);

-- Every connection there is, in whatever process, so that all processes agree on who is here.
CREATE TABLE IF NOT EXISTS connection (
  sid TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  session TEXT NOT NULL,
  seen REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS presence (
  sid TEXT NOT NULL REFERENCES connection ON DELETE CASCADE,
  room TEXT NOT NULL REFERENCES room,
  since INTEGER NOT NULL, -- the last message of the history that it was given
  PRIMARY KEY (sid, room)
);

INSERT OR IGNORE INTO room (name, private) VALUES ('lobby', 0), ('random', 0), ('staff', 1);
INSERT OR IGNORE INTO member (room, name) VALUES ('staff', 'ada'), ('staff', 'grace');
