"""UTF-8 that was cut at a number of bytes: PURE. A character that was cut in two is left out, not shown as two."""


def without_cut_end(cut: bytes) -> bytes:
    """`cut` without the beginning of a character at its end. Bytes that are no UTF-8 stay."""
    for behind in range(1, min(4, len(cut)) + 1):
        lead = cut[-behind]
        if lead & 0xC0 != 0x80:  # no continuation: this one says how many follow it
            follow = (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            return cut[:-behind] if follow >= behind else cut
    return cut


def without_cut_start(cut: bytes) -> bytes:
    """`cut` without the end of a character at its beginning. Bytes that are no UTF-8 may go as well, three at most."""
    start = 0
    while start < min(3, len(cut)) and cut[start] & 0xC0 == 0x80:
        start += 1
    return cut[start:]
