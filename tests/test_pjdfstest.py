"""pjdfstest as root: no case fails on a Cairn mount that does not fail on ext4 of the same machine."""

from __future__ import annotations

import pytest

from support import harness, suites


@pytest.mark.limit(900)
def test_no_case_fails_that_passes_on_ext4(lab: harness.Lab):
    mount = lab.dev(size="100GiB")
    work = mount.path / "work"
    work.mkdir()
    on_cairn = suites.pjdfstest(work)
    with suites.ext4() as directory:
        on_ext4 = suites.pjdfstest(directory)
    excluded = suites.exclusions()
    assert len(on_ext4.passed) + len(on_ext4.failed) >= 390
    not_run = (on_ext4.passed | on_ext4.failed.keys()) - on_cairn.passed - on_cairn.failed.keys() - excluded.keys()
    assert not not_run, f"these ran on ext4 and not on Cairn: {sorted(not_run)}"
    only_here = {name: text for name, text in on_cairn.failed.items() if name not in on_ext4.failed and name not in excluded}
    assert not only_here, "\n".join(f"{name}: {text}" for name, text in only_here.items())
    stale = [name for name in excluded if name in on_cairn.passed]
    assert not stale, f"these pass and need no exclusion: {stale}"
