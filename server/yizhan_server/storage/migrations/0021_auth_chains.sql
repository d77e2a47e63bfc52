-- The auth DAG of a room, covered by chains: an event reaches all before it in its chain, and what
-- its chain's links lead to. Filled when a fork has to be resolved (rooms/auth_chains.py).

-- JSON list of the nids of an event's auth events. All of these have their place in a chain.
CREATE TABLE event_auth (
    event INTEGER PRIMARY KEY,
    auth TEXT NOT NULL
);

-- Only of events that others name as auth events. A chain's number is the nid of its first event.
CREATE TABLE auth_chain (
    event INTEGER PRIMARY KEY,
    chain INTEGER NOT NULL,
    seq INTEGER NOT NULL
);
CREATE UNIQUE INDEX auth_chain_by_place ON auth_chain (chain, seq);

-- What (chain, seq) and all after it in the chain reach in another chain.
CREATE TABLE auth_chain_link (
    chain INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    to_chain INTEGER NOT NULL,
    to_seq INTEGER NOT NULL,
    PRIMARY KEY (chain, seq, to_chain)
) WITHOUT ROWID;

-- Raised by every commit that extends the cover of a room: an optimistic lock among those who do.
CREATE TABLE auth_cover (
    room INTEGER PRIMARY KEY,
    ver INTEGER NOT NULL
);
