"""Push rules: which events notify whom, and how.

`defaults` holds the rules every account starts with, `ruleset` edits an account's rules as the API
asks for, `conditions` compiles single conditions and `evaluation` applies compiled rules to events.

Accounts that have never changed a rule (nearly all) compile to *equal* rules, although the default
rules name their owner: the owner's ID is kept out of the compiled form. So one evaluation serves a
whole group of users, and only those whom an event names are judged one by one
(`evaluate_group`).

Spec: client-server API, "Push Rules".
"""

from yizhan_server.protocol.push_rules.conditions import PushEvent, Viewer
from yizhan_server.protocol.push_rules.defaults import default_ruleset
from yizhan_server.protocol.push_rules.evaluation import (
    CompiledRules,
    PushActions,
    compile_rules,
    evaluate,
    evaluate_group,
)
from yizhan_server.protocol.push_rules.ruleset import (
    KINDS,
    check_kind,
    delete_rule,
    find_rule,
    put_rule,
    set_actions,
    set_enabled,
    with_current_defaults,
)

__all__ = [
    "KINDS",
    "CompiledRules",
    "PushActions",
    "PushEvent",
    "Viewer",
    "check_kind",
    "compile_rules",
    "default_ruleset",
    "delete_rule",
    "evaluate",
    "evaluate_group",
    "find_rule",
    "put_rule",
    "set_actions",
    "set_enabled",
    "with_current_defaults",
]
