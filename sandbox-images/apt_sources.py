"""A machine's apt sources of one release, whichever of the two formats they are written in.

Pure; `build` reads the files.
"""


def of_release(name: str, suite: str) -> bool:
    """Whether the name of a suite belongs to the release: `bookworm`, `bookworm-security`."""
    return name == suite or name in {f"{suite}-updates", f"{suite}-security"}


def from_deb822(text: str, suite: str) -> list[str]:
    """The stanzas of a .sources file that hold binary packages of the release."""
    found = []
    for stanza in text.split("\n\n"):
        lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
        fields = {key.strip().lower(): value.split() for key, _, value in (line.partition(":") for line in lines)}
        wanted = any(of_release(name, suite) for name in fields.get("suites", []))
        if wanted and "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
            found.append("\n".join(lines))
    return found


def from_lines(text: str, suite: str) -> list[str]:
    """The one-line entries of the release, as stanzas."""
    found = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        options: list[str] = []
        if words[1:2] and words[1].startswith("["):
            end = next((place for place, word in enumerate(words) if word.endswith("]")), 1)
            options = " ".join(words[1 : end + 1]).strip("[] ").split()
            words = [words[0], *words[end + 1 :]]
        if words[:1] != ["deb"] or len(words) < 4 or not of_release(words[2], suite):
            continue
        stanza = ["Types: deb", f"URIs: {words[1]}", f"Suites: {words[2]}", f"Components: {' '.join(words[3:])}"]
        signed = next((option.partition("=")[2] for option in options if option.startswith("signed-by=")), "")
        found.append("\n".join([*stanza, *([f"Signed-By: {signed}"] if signed else [])]))
    return found
