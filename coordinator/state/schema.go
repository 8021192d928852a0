package state

// version is the schema's. 1: the first one. 2: payloads.
const version = 2

// steps lead from each version of the schema to the next.
var steps = map[int]string{0: schema + payloads, 1: payloads}

// payloads are the jobs of other systems, encrypted. Nothing of a deleted one stays
// in the file: secure_delete is on.
const payloads = `
CREATE TABLE payloads (job TEXT PRIMARY KEY REFERENCES jobs (id), sealed BLOB NOT NULL) STRICT;
`

// schema is that of version 1: what is looked up has a column, the rest of a record is JSON in body.
// Ages and names are never keys to anything outside the database.
const schema = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE pipelines (
	id TEXT PRIMARY KEY, version INTEGER NOT NULL, number INTEGER NOT NULL UNIQUE,
	project TEXT NOT NULL, key TEXT NOT NULL UNIQUE, live INTEGER NOT NULL, body TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX pipelines_live ON pipelines (live) WHERE live = 1;
CREATE INDEX pipelines_project ON pipelines (project, number);
CREATE TABLE jobs (
	id TEXT PRIMARY KEY, version INTEGER NOT NULL, pipeline TEXT NOT NULL REFERENCES pipelines (id),
	idx INTEGER NOT NULL, def TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (pipeline, idx)
) WITHOUT ROWID, STRICT;
CREATE TABLE attempts (
	id TEXT PRIMARY KEY, version INTEGER NOT NULL, job TEXT NOT NULL REFERENCES jobs (id),
	epoch INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (job, epoch)
) WITHOUT ROWID, STRICT;
CREATE TABLE snapshots (
	id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE hosts (
	name TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE domains (
	project TEXT NOT NULL, zone TEXT NOT NULL, key BLOB NOT NULL, PRIMARY KEY (project, zone)
) WITHOUT ROWID, STRICT;
CREATE TABLE events (
	pipeline TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (pipeline, seq)
) WITHOUT ROWID, STRICT;
CREATE TABLE seeds (
	project TEXT NOT NULL, zone TEXT NOT NULL, job TEXT NOT NULL, fingerprint TEXT NOT NULL,
	number INTEGER NOT NULL, snapshot TEXT NOT NULL,
	PRIMARY KEY (project, zone, job, fingerprint, number)
) WITHOUT ROWID, STRICT;
CREATE TABLE durations (
	project TEXT NOT NULL, job TEXT NOT NULL, ms REAL NOT NULL, count INTEGER NOT NULL,
	PRIMARY KEY (project, job)
) WITHOUT ROWID, STRICT;
`
