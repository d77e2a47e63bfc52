// matrix-bot-sdk loads this at its start, and uses it only for a client that is given a crypto store.
module.exports = {};
