"""One sandbox from its intent row to verified and idle, and the proof that a workspace can be attached to it late."""

from dataclasses import replace

from perstackd.app.warm_pool.files import SandboxFiles
from perstackd.app.warm_pool.held_link import HeldLink
from perstackd.app.warm_pool.lease import WORKSPACE_PATH
from perstackd.app.warm_pool.roster import Member, Verified
from perstackd.app.warm_pool.wiring import PoolLimits, PoolPorts, bounded
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.guest_view import guest_checks
from perstackd.domain.sandbox import Posture, PostureCheck, SandboxState
from perstackd.domain.session import Hello
from perstackd.ports.sandboxes import EndCause

_REMEDY = (
    "run the daemon in the host's mount namespace (no PrivateMounts, PrivateTmp, ProtectSystem, no container around "
    "it), beside a root Docker engine on the same machine, then restart it"
)
_REFUSALS = (Kind.PRECONDITION, Kind.DENIED, Kind.UNSUPPORTED)


class LateBindingError(Exception):
    """The machine does not let a workspace appear in a running sandbox. Not a failure of the template."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class ChangedError(Exception):
    """A sandbox of an earlier daemon is not what a new one would be."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Starter:
    """Each step is bounded; whatever fails, the caller removes what `member` says is there."""

    def __init__(self, ports: PoolPorts, limits: PoolLimits, files: SandboxFiles) -> None:
        self._ports = ports
        self._limits = limits
        self._files = files

    async def start(self, member: Member, *, prove: bool) -> None:
        """Bring `member` to IDLE, its row included; `prove` asks for the proof of late binding before.

        Raises:
            PerstackError: of the port that failed; PRECONDITION `posture_differs`; TIMEOUT `pool_step_timeout`.
            LateBindingError: The proof was made and says no.
            OSError: The directories cannot be made.
        """
        await self._prepare(member)
        link = await self._listen(member)
        await self._run(member)
        hello = await link.hello(self._limits.hello_seconds)
        posture = await self.verify(member, hello)
        if prove:
            await self._prove(member, link)
        member.checked = Verified(link, hello, posture)
        member.record = replace(member.record, session_token_hash=link.token_hash)
        member.become(SandboxState.IDLE)
        member.adoptable = True
        await bounded("writing the sandbox's row", self._limits.step_seconds, self._ports.rows.put(member.record))

    async def take_back(self, member: Member) -> None:
        """Bring a sandbox of an earlier daemon to IDLE again. Its row says so already.

        Every one proves late binding: the mounts that it would see them through are of that daemon's time.

        Raises:
            ChangedError: Its container has ended, or a new one would be of another image or runtime.
            PerstackError, LateBindingError, OSError: As start; TIMEOUT `runner_silent` when nobody comes back who has
                the session's token.
        """
        await self._compare(member)
        slot, uid = self._files.of(member.id).directories.slot, member.record.uid
        seconds, workspaces = self._limits.step_seconds, self._ports.workspaces
        await bounded("detaching what was left", seconds, workspaces.detach(member.id, slot))
        await bounded("preparing the slot", seconds, workspaces.prepare(slot, uid))
        link = await self._listen(member, member.record.session_token_hash)
        hello = await link.hello(self._limits.return_seconds)
        posture = await self.verify(member, hello)
        await self._prove(member, link)
        member.checked = Verified(link, hello, posture)
        member.become(SandboxState.IDLE)

    async def await_back(self, member: Member) -> tuple[HeldLink, Hello]:
        """Make both sockets of a sandbox that a run had, and wait for its runner, which goes on where it stands and
        says again what it was not told to be stored. Nothing is mounted or unmounted, and the engine is not asked.

        Raises:
            PerstackError: TIMEOUT `runner_silent` when nobody comes back who has the session's token; of the ports.
        """
        link = await self._listen(member, member.record.session_token_hash, repeats=True)
        return link, await link.hello(self._limits.return_seconds)

    async def _compare(self, member: Member) -> None:
        """What can be told before anything is made; the posture tells the rest."""
        sandboxes, seconds, template = self._ports.sandboxes, self._limits.step_seconds, member.template
        end = await bounded("asking for the container", seconds, sandboxes.end(member.id))
        if end.cause is not EndCause.RUNNING:
            raise ChangedError(f"its container has ended: {end.detail or end.cause.value}")
        image_id = await bounded("asking for the image", seconds, sandboxes.image_id(template.image))
        if image_id != member.record.image_id:
            raise ChangedError(f"the image {template.image} is another one by now")
        if template.runtime != member.record.runtime:
            raise ChangedError(f"the template's runtime is {template.runtime!r} by now")

    async def _prepare(self, member: Member) -> None:
        """Row and directories."""
        ports, seconds, paths = self._ports, self._limits.step_seconds, self._files.of(member.id)
        image_id = await bounded("asking for the image", seconds, ports.sandboxes.image_id(member.template.image))
        member.record = replace(member.record, image_id=image_id)
        await bounded("writing the sandbox's row", seconds, ports.rows.put(member.record))
        await bounded("making directories", seconds, self._files.make(member.id, member.record.uid))
        await bounded(
            "preparing the slot", seconds, ports.workspaces.prepare(paths.directories.slot, member.record.uid)
        )

    async def _listen(self, member: Member, token_hash: str = "", *, repeats: bool = False) -> HeldLink:
        """Both sockets; with them all is there that the engine's start needs."""
        ports, seconds, paths = self._ports, self._limits.step_seconds, self._files.of(member.id)
        listen = ports.links.listen(member.id, paths.runner_socket, token_hash, repeats=repeats)
        link = await bounded("listening for the runner", seconds, listen)
        member.link = held = HeldLink(link)
        await bounded("listening for egress", seconds, ports.egress.listen(member.id, paths.egress_socket))
        return held

    async def _run(self, member: Member) -> None:
        member.asked_engine = True
        directories = self._files.of(member.id).directories
        call = self._ports.sandboxes.start(member.record, member.template, directories)
        container_id = await bounded("starting the container", self._limits.step_seconds, call)
        member.record = replace(member.record, container_id=container_id)

    async def verify(self, member: Member, hello: Hello, *, occupied: bool = False) -> Posture:
        """Its posture now; one that is `occupied` may have its workspace mounted, and nothing else. Raises
        PerstackError PRECONDITION `posture_differs`, and what asking the engine raises.
        """
        call = self._ports.sandboxes.posture(member.record, member.template)
        posture = _with_runner(await bounded("reading the posture", self._limits.step_seconds, call), hello)
        if member.template.runtime == "runsc":
            posture = replace(posture, checks=(*posture.checks, *guest_checks(hello.self_view, member.record.uid)))
        if occupied:
            posture = replace(posture, checks=tuple(map(_with_workspace, posture.checks)))
        member.posture = posture
        if not posture.ok:
            differing = ", ".join(
                f"{check.name} is {check.actual!r} instead of {check.expected!r}" for check in posture.failed
            )
            raise PerstackError(
                Kind.PRECONDITION,
                "posture_differs",
                f"the sandbox is not as the template {member.template.name!r} asks: {differing}; "
                f"see `perstackctl sandbox posture {member.id}`",
                fields={"sandbox_id": member.id, "differing": ",".join(check.name for check in posture.failed)},
            )
        return posture

    async def _prove(self, member: Member, link: HeldLink) -> None:
        slot, limits = self._files.of(member.id).directories.slot, self._limits
        marker = f"{WORKSPACE_PATH}/marker"
        try:
            token = await self._marker(slot, member.record.uid)
            seen = await link.probe(marker, limits.probe_seconds)
        finally:
            detach = self._ports.workspaces.detach(member.id, slot)
            await bounded("detaching the marker", limits.step_seconds, detach)
        if seen is None or seen.strip() != token.encode():
            raise LateBindingError(f"a marker that was mounted on the host is not seen in the sandbox; {_REMEDY}")
        if await link.probe(marker, limits.probe_seconds) is not None:
            raise LateBindingError(f"a marker that was unmounted on the host is still seen in the sandbox; {_REMEDY}")

    async def _marker(self, slot: str, uid: int) -> str:
        try:
            return await bounded(
                "attaching a marker", self._limits.step_seconds, self._ports.workspaces.prove(slot, uid)
            )
        except PerstackError as error:
            if error.kind in _REFUSALS:
                raise LateBindingError(f"a marker cannot be mounted: {error.message}") from error
            raise


def _with_runner(posture: Posture, hello: Hello) -> Posture:
    """What only the runner can say of itself, beside what the kernel and the engine say of it."""
    dumpable = PostureCheck(
        "runner dumpable", "no", "yes" if hello.dumpable else "no", ok=not hello.dumpable, source="runner"
    )
    abi = f"landlock ABI {hello.landlock_abi}" if hello.landlock_abi else "none"
    return replace(posture, checks=(*posture.checks, dumpable, _shown("skill separation", abi)))


def _with_workspace(check: PostureCheck) -> PostureCheck:
    """What an idle sandbox does not have yet."""
    mounted = check.name == "other_mounts" and check.actual == WORKSPACE_PATH
    return replace(check, expected=WORKSPACE_PATH, ok=True) if mounted else check


def _shown(name: str, value: str) -> PostureCheck:
    return PostureCheck(name, value, value, ok=True, source="runner")
