"""`[experts.KEY]`: one role."""

import re
from collections.abc import Mapping
from typing import Final

from perstackd.adapters.definition.allowed import Allowed
from perstackd.adapters.definition.model_choice import MODEL_KEYS, read_model
from perstackd.adapters.definition.provider_tools import PROVIDER_KEYS, read_options, read_skills, read_tools
from perstackd.adapters.definition.skills import check_sharing, read_base, read_skill
from perstackd.adapters.definition.table import Table, shown
from perstackd.domain.expert import BASE_SKILL, BaseSkill, Expert, ModelChoice, Skill
from perstackd.domain.model_tiers import TIERS
from perstackd.domain.tool_names import without_version
from perstackd.domain.version_range import parse_range

EXPERT_KEYS: Final = (
    *("version", "minRuntimeVersion", "description", "instruction", "delegates", "tags", "skills", "maxSteps"),
    *PROVIDER_KEYS,
    *MODEL_KEYS,
)
MAX_KEY: Final = 511
MAX_DESCRIPTION: Final = 2048
MAX_INSTRUCTION: Final = 20_480
MAX_DELEGATES: Final = 255
MAX_SKILLS: Final = 255
MAX_TAGS: Final = 8
RUNTIME_VERSION: Final = (1, 0)
"""The version of Perstack's definition that is implemented here; `minRuntimeVersion` is compared with it."""

_KEY: Final = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_REGISTRY_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}", re.ASCII)
MAX_RANGE: Final = 128
# https://semver.org/#is-there-a-suggested-regular-expression-regex-to-check-a-semver-string, without its groups
_SEMVER: Final = re.compile(
    r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
_RUNTIME: Final = re.compile(r"v?(\d{1,9})\.(\d{1,9})(\.\d{1,9})?", re.ASCII)
_TAG: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


def read_expert(key: str, table: Table, allowed: Allowed, elsewhere: Mapping[str, str]) -> Expert:
    """The expert of a table, as far as it can be read."""
    table.only(EXPERT_KEYS, elsewhere)
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        table.problems.error(
            table.path,
            f"{shown(key)} is not an expert's key: [@scope/]name of lower case letters, digits, . _ -, ≤ 511",
        )
    _check_runtime(table)
    base, skills = _skills(table, allowed, elsewhere)
    model = read_model(table, allowed.plain_hosts, elsewhere) if _names_model(table) else ModelChoice()
    return Expert(
        key=key,
        instruction=_instruction(table),
        version=table.matching("version", _SEMVER, "a version such as 1.0.0 (semver.org)", "1.0.0"),
        description=table.text("description", limit=MAX_DESCRIPTION),
        delegates=table.texts("delegates", limit=MAX_DELEGATES, problem=_reference_problem),
        skills=skills,
        base=base,
        tags=table.texts("tags", limit=MAX_TAGS, problem=lambda tag: "" if _TAG.fullmatch(tag) else "is not a tag"),
        model=model,
        max_steps=table.integer("maxSteps", 0, 1),
        model_tier=_tier(table),
        provider_tools=read_tools(table),
        provider_tool_options=read_options(table),
        provider_skills=read_skills(table),
    )


def _tier(table: Table) -> str:
    tier = table.one_of("modelTier", TIERS, "")
    if tier and "model" in table.values:
        table.warning("modelTier", "has no effect: the expert names a model as well")
    return tier


def _names_model(table: Table) -> bool:
    return any(key in table.values for key in MODEL_KEYS)


def _instruction(table: Table) -> str:
    if "instruction" not in table.values:
        table.problems.error(table.path, 'the expert has no instruction; add instruction = """..."""')
        return ""
    instruction = table.text("instruction", limit=MAX_INSTRUCTION)
    if isinstance(table.values["instruction"], str) and not table.values["instruction"].strip():
        table.error("instruction", "is empty; say what the expert is and does")
    return instruction


def _skills(table: Table, allowed: Allowed, elsewhere: Mapping[str, str]) -> tuple[BaseSkill, tuple[Skill, ...]]:
    skills = table.table("skills")
    if skills is None:
        return BaseSkill(), ()
    if len(skills.values) > MAX_SKILLS:
        table.error("skills", f"has {len(skills.values):,} skills, {MAX_SKILLS} are allowed")
        return BaseSkill(), ()
    base, found = BaseSkill(), []
    for name in skills.values:
        below = skills.table(name)
        if not name or len(name) > MAX_KEY or not name.isprintable():
            skills.error(name, f"{shown(name)} is not a skill's name")
        elif below is not None and name == BASE_SKILL:
            base = read_base(below, elsewhere)
        elif below is not None and (skill := read_skill(name, below, allowed, elsewhere)) is not None:
            found.append((below, skill))
    for below, skill in found:
        check_sharing(below, skill, base)
    return base, tuple(skill for _, skill in found)


def _reference_problem(reference: str) -> str:
    name = without_version(reference)
    if len(reference) > MAX_KEY or not _KEY.fullmatch(name):
        return "is not an expert's key with, at most, @ and a version"
    wanted = reference[len(name) + 1 :]
    if name == reference or _REGISTRY_TAG.fullmatch(wanted):
        return ""
    if wanted and len(wanted) <= MAX_RANGE and parse_range(wanted) is not None:
        return ""
    return f"asks for {shown(wanted)}, which is no version, tag or range such as 1.2.0, latest or ^1.2.0"


def _check_runtime(table: Table) -> None:
    wanted = table.matching("minRuntimeVersion", _RUNTIME, "a version such as v1.0")
    found = _RUNTIME.fullmatch(wanted)
    if found and (int(found[1]), int(found[2])) > RUNTIME_VERSION:
        have = ".".join(str(part) for part in RUNTIME_VERSION)
        table.error("minRuntimeVersion", f"the expert needs the runtime {wanted}; this daemon implements v{have}")
