"""Kills a build before its first access to the disk, before its second one, and so on until one survives.

The argument says what each build finds: an artifact that is `absent` or `damaged`. Prints how many builds
were started and after how many of them the artifact was whole.
"""

import os
import shutil
import signal
import sys

from xsub_utils._internal import paths, store

DISK = ("open", "os", "fcntl", "shutil", "build")  # first words of the audit events that count

store.commit = store.hardware = store.versions = lambda: None  # these write nothing and take long


def build(folder):
    for name in ("one", "two"):
        with (folder / name).open("w") as file:
            file.write("half ")
            file.flush()
            sys.audit("build.half")
            file.write("whole")


def ask():
    return store.get_or_build("model", {}, build)


def ask_and_die(moment):
    seen = 0

    def count(event, arguments):
        nonlocal seen
        if event.split(".")[0] in DISK:
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    ask()


def is_killed(function, *arguments):
    """Whether the function, run in a child process, is killed."""
    child = os.fork()
    if not child:
        function(*arguments)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def check(folder):
    assert sorted(os.listdir(folder)) == ["manifest.json", "one", "two"]
    assert (folder / "one").read_text() == (folder / "two").read_text() == "half whole"


def crash_everywhere(state):
    assert not is_killed(ask)
    place = next(paths.artifacts().glob("model/[!.]*"))
    moment, complete, killed = 0, 0, True
    while killed:
        moment += 1
        if state == "damaged":
            (place / "one").write_text("half whol~")
        else:
            shutil.rmtree(place)
        killed = is_killed(ask_and_die, moment)
        if not store.verify(place):
            complete += 1
            check(place)
        assert ask() == place
        check(place)
        left = [name for name in os.listdir(place.parent) if not name.endswith(".lock")]
        assert left == [place.name], left
    print(moment, complete)


crash_everywhere(sys.argv[1])
