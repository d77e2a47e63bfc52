"""A bot on simplematrixbotlib, as its readme teaches to write one, that the tests talk to.

    python echo_bot.py HOMESERVER_URL LOCALPART PASSWORD

It accepts every invitation and repeats what follows !echo. Its keys and its session are files in
the working directory.
"""

import sys

import simplematrixbotlib as botlib  # type: ignore[import-not-found]  # not among our packages

homeserver_url, localpart, password = sys.argv[1:]
creds = botlib.Creds(homeserver_url, localpart, password, session_stored_file="session.txt")
bot = botlib.Bot(creds)


@bot.listener.on_message_event
async def echo(room, message):  # type: ignore[no-untyped-def]
    match = botlib.MessageMatch(room, message, bot, "!")
    if match.is_not_from_this_bot() and match.prefix() and match.command("echo"):
        await bot.api.send_text_message(room.room_id, " ".join(match.args()))


bot.run()
