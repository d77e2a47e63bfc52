-- Approvals: an append-only chain of events per request is the only truth.

CREATE TABLE approval_event (
    request TEXT NOT NULL,
    seq INTEGER NOT NULL,
    canonical BLOB NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (request, seq)
) WITHOUT ROWID;

-- Projections: indexes into the events, rebuilt from them at any time.
CREATE TABLE approval_request (
    id TEXT NOT NULL PRIMARY KEY,
    ref TEXT NOT NULL,
    form TEXT NOT NULL,
    applicant TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    rev INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX approval_request_ref ON approval_request (ref, created_ms);
CREATE INDEX approval_request_applicant ON approval_request (applicant, created_ms);

CREATE TABLE approval_task (
    id TEXT NOT NULL PRIMARY KEY,
    request TEXT NOT NULL,
    node INTEGER NOT NULL,
    assignee TEXT NOT NULL,
    short TEXT NOT NULL,
    state TEXT NOT NULL,
    opened_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX approval_task_open_short ON approval_task (short) WHERE state = 'open';
CREATE INDEX approval_task_short ON approval_task (short, opened_ms);
CREATE INDEX approval_task_assignee ON approval_task (assignee, state, opened_ms);
CREATE INDEX approval_task_request ON approval_task (request);

-- What the codes of tasks are derived from; one row.
CREATE TABLE approval_secret (
    id INTEGER PRIMARY KEY,
    secret BLOB NOT NULL
);
