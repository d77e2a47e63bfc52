"""The conversation with people: commands, menu, tutorial, questions, decisions in words.

Knows no Matrix: it is driven by `yizhan_bots.conversation`. Reading order: `skill` (what a
message is and who may be heard), `grammar` and `commands` (the language), `memory`, `call`,
then one module per matter: `filling`, `deciding`, `requests`, `members`, `tutorial`.
"""

from .skill import Dialogue, open_dialogue

__all__ = ["Dialogue", "open_dialogue"]
