"""The dry run of a CONNECT: the same policy, resolver and address rules as the real one, and nothing is dialled."""

from collections.abc import Sequence
from dataclasses import dataclass

from perstack_egress.addresses import Address, inside, why_not
from perstack_egress.answer import remedy
from perstack_egress.dial import is_local
from perstack_egress.policy import Host, Policy, parse_host
from perstack_egress.refusal import Refused
from perstack_egress.resolve import Resolver, look_up


@dataclass(frozen=True, slots=True)
class Explanation:
    """`reason` is empty when allowed. `addresses` are what the host stands for now, each with why it is not dialled."""

    host: str
    port: int
    reason: str = ""
    detail: str = ""
    rule: str = ""
    addresses: tuple[tuple[str, str], ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether a CONNECT would be dialled."""
        return not self.reason

    @property
    def remedy(self) -> str:
        """What to do about a denial."""
        return remedy(self.reason, self.host, self.port)


async def explain(policy: Policy, host: str, port: int, resolver: Resolver, seconds: float) -> Explanation:
    """Every step is taken, whatever the ones before it say, so that one answer has all there is to repair.

    A name that no rule covers is looked up too: it is the operator who asks, not a sandbox. Never raises Refused.
    """
    try:
        known = parse_host(host)
    except Refused as refused:
        return Explanation(host[:253], port, refused.reason, refused.detail)
    denials: list[Refused] = []
    try:
        policy.check(known, port)
    except Refused as refused:
        denials.append(refused)
    try:
        found = await look_up(resolver, known, seconds)
    except Refused as refused:
        denials.append(refused)
        found = ()
    judged = tuple((address, _why_not(address, port, policy)) for address in found)
    if found and all(why for _, why in judged):
        denials.append(_no_address(known, [why for _, why in judged]))
    rule = policy.rule_for(known, port)
    first = denials[0] if denials else None
    return Explanation(
        known.text,
        port,
        first.reason if first else "",
        first.detail if first else "",
        str(rule) if rule else "",
        tuple((str(address), why) for address, why in judged),
    )


def _why_not(address: Address, port: int, policy: Policy) -> str:
    why = why_not(address, policy.networks)
    if not why and not inside(address, policy.networks) and is_local(address, port):
        return "is an address of this host"
    return why


def _no_address(host: Host, whys: Sequence[str]) -> Refused:
    if all(why == "is an address of this host" for why in whys):
        return Refused("address_is_this_host", f"{host.text} leads to the sandbox's own host")
    return Refused("address_not_global", f"{host.text} resolves to an address that is not global")
