"""Writing files: whole or not at all, by any number of writers, whatever fails."""

import ast
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from batchwright._files import remove_unfinished, replacing, write_bytes
from batchwright.errors import LengthsError, PlanError
from tests.patience import PATIENCE

SOURCE = str(Path(__file__).resolve().parents[1] / "src")


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def run(code, *args, **options):
    """Run code in a process of its own."""
    begin = "import os, signal, sys, time\nfrom pathlib import Path\n"
    begin += "from batchwright._files import replacing, write_bytes\n"
    begin += "from batchwright.errors import PlanError\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code, *map(str, args)],
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def killed_writer(folder, name="file"):
    """Kill a process in the middle of writing a file."""
    code = "with replacing(sys.argv[1], PlanError) as unfinished:\n"
    code += "    unfinished.write_bytes(b'half'); print(flush=True); time.sleep(600)"
    process = run(code, folder / name)
    process.stdout.readline()
    process.kill()
    process.communicate()


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path, PlanError) as unfinished:
        unfinished.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        assert unfinished.parent == tmp_path
    write_bytes(str(path), path.read_bytes() + b"w", PlanError)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_is_raised_leaves_the_old_file_and_no_other(tmp_path, raised):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with replacing(path, PlanError) as unfinished:
            unfinished.write_bytes(b"new")
            raise raised

    with pytest.raises(raised):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_any_number_of_threads_write_the_same_file(tmp_path):
    path, failures = tmp_path / "file", []

    def write(letter):
        try:
            for _ in range(100):
                write_bytes(path, letter * 1000, PlanError)
                assert len(set(path.read_bytes())) == 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=write, args=(each,)) for each in (b"a", b"b", b"c")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert names(tmp_path) == ["file"]


@pytest.mark.slow
def test_any_number_of_processes_write_the_same_file(tmp_path):
    path = tmp_path / "file"
    code = "for _ in range(300):\n"
    code += "    write_bytes(sys.argv[1], sys.argv[2].encode() * 1000, PlanError)\n"
    code += "    content = Path(sys.argv[1]).read_bytes()\n"
    code += "    assert len(content) == 1000 and len(set(content)) == 1"
    processes = [run(code, path, each) for each in "abc"]
    assert [each.communicate(timeout=PATIENCE)[1] for each in processes] == [""] * 3
    assert [each.returncode for each in processes] == [0] * 3
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    killed_writer(tmp_path)
    (left,) = names(tmp_path)
    assert left.startswith(".batchwright-")
    write_bytes(tmp_path / "other", b"whole", PlanError)
    assert names(tmp_path) == ["other"]


def test_what_another_writer_has_begun_is_not_removed(tmp_path):
    with replacing(tmp_path / "slow", PlanError) as unfinished:
        os.utime(unfinished, (0, 0))  # of long ago, by its time
        write_bytes(tmp_path / "quick", b"quick", PlanError)
        remove_unfinished(tmp_path)
        unfinished.write_bytes(b"slow")
    assert names(tmp_path) == ["quick", "slow"]


def test_what_other_machines_have_begun_is_removed_after_a_day(tmp_path):
    foreign = tmp_path / ".batchwright-00000000-0123456789abcdef.unfinished"
    foreign.touch()
    remove_unfinished(tmp_path)
    assert foreign.exists()
    then = time.time() - 25 * 3600
    os.utime(foreign, (then, then))
    remove_unfinished(tmp_path)
    assert not foreign.exists()


def test_a_new_file_gets_the_users_umask(tmp_path):
    for umask in (0o022, 0o077, 0o002):
        path = tmp_path / f"{umask:o}"
        before = os.umask(umask)
        try:
            write_bytes(path, b"", PlanError)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_an_existing_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    write_bytes(path, b"new", PlanError)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"new"


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link, hop = tmp_path / "link", tmp_path / "hop"
    hop.symlink_to("there/file")
    link.symlink_to(hop)
    for content in (b"made", b"replaced"):
        write_bytes(link, content, PlanError)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content
    assert names(tmp_path / "there") == ["file"]
    hop.unlink()
    hop.symlink_to(link)
    with pytest.raises(PlanError, match="symbolic links"):
        write_bytes(link, b"", PlanError)


def test_the_path_is_that_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with replacing("file", PlanError) as unfinished:
        monkeypatch.chdir(tmp_path / "other")
        unfinished.write_bytes(b"whole")
    assert names(tmp_path) == ["file", "other"]


@pytest.mark.parametrize("name", ["x" * 255, "ä ü\n\t'\"$%", "-o", os.fsdecode(b"\xff\xfe")])
def test_names_may_be_odd(tmp_path, name):
    write_bytes(tmp_path / name, b"whole", PlanError)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", r"it is a folder\). Name a file in it"),
        ("none/file", r"there is no folder .*none\). Make the folder"),
        ("file/in", "there is no folder"),
        ("x" * 256, "too long"),
        ("nul\0l", "null"),
        ("lone\ud800", "encoded"),
    ],
)
def test_where_no_file_can_be_is_one_clear_error(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(LengthsError, match=f"cannot be written .*{reason}") as error:
        write_bytes(tmp_path / name, b"", LengthsError)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["file", "folder"]


@pytest.fixture
def reachable():
    """A folder that other users can get to: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs other users")
def test_what_is_read_only_is_not_replaced(reachable):
    code = "os.geteuid() or (os.setgid(65534), os.setuid(65534))\n"
    code += "for each in sys.argv[1:]:\n"
    code += "    try: write_bytes(each, b'new', PlanError)\n"
    code += "    except PlanError as error: print(error)"
    open_folder, closed = reachable / "open", reachable / "closed"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    closed.mkdir()
    closed.chmod(0o555)
    kept = open_folder / "kept"
    kept.write_bytes(b"old")
    kept.chmod(0o444)
    out, err = run(code, kept, closed / "new").communicate(timeout=PATIENCE)
    assert err == ""
    first, second = out.splitlines()
    assert "kept: cannot be written (it is read-only)" in first
    assert "closed is read-only)" in second
    assert kept.read_bytes() == b"old"
    assert (names(open_folder), names(closed)) == (["kept"], [])


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through", PlanError)
    reader.join()
    assert received == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("redirected", [False, True])
def test_standard_output_is_written_to_in_its_turn(tmp_path, redirected):
    code = "print('before', flush=True)\n"
    code += "write_bytes('/dev/stdout', b'between ', PlanError)\nprint('after')"
    path = tmp_path / "out"
    if redirected:
        command = [sys.executable, "-c", "from batchwright._files import write_bytes\n" + code]
        command[-1] = "from batchwright.errors import PlanError\n" + command[-1]
        with path.open("wb") as file:
            subprocess.run(
                command, stdout=file, env=os.environ | {"PYTHONPATH": SOURCE}, check=True
            )
        out = path.read_text(encoding="utf-8")
    else:
        out, _ = run(code).communicate(timeout=PATIENCE)
    assert out == "before\nbetween after\n"
    assert names(tmp_path) == (["out"] if redirected else [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_a_full_device_says_so():
    with pytest.raises(PlanError, match=r"No space left on device\). Free some space"):
        write_bytes("/dev/full", b"too much", PlanError)
    write_bytes(os.devnull, b"gone", PlanError)
    assert not Path(os.devnull).is_file()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_keeps_the_old_file_and_nothing_else(small_disk):
    path = small_disk / "file"
    write_bytes(path, b"old", PlanError)
    with pytest.raises(PlanError, match="No space left on device"):
        write_bytes(path, bytes(1 << 20), PlanError)
    assert path.read_bytes() == b"old"
    assert names(small_disk) == ["file"]
    (small_disk / "filler").write_bytes(bytes(60 << 10))
    with pytest.raises(PlanError, match="No space left on device"):
        write_bytes(path, bytes(8 << 10), PlanError)
    assert path.read_bytes() == b"old"


def test_a_limit_on_the_size_of_files_keeps_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = "try: write_bytes(sys.argv[1], bytes(1 << 20), PlanError)\n"
    code += "except PlanError as error: print(error)"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    out, err = run(code, path, preexec_fn=limit).communicate(timeout=PATIENCE)
    assert "File too large" in out, err
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path):
    code = "with replacing(sys.argv[1], PlanError) as unfinished:\n"
    code += "    unfinished.write_bytes(b'half'); print(flush=True); time.sleep(600)"
    process = run(code, tmp_path / "file")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert names(tmp_path) == []


def writes(call):
    """Say whether a call opens a file to write, or writes one, by its name and mode."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name == "open":
        modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
        modes += [each.value.value for each in call.keywords if each.arg == "mode"]
        return any(isinstance(mode, str) and set(mode) & set("wxa+") for mode in modes)
    is_method = isinstance(call.func, ast.Attribute)
    return is_method and name in {
        *("write_text", "write_bytes", "tofile", "save_file", "serialize_file"),
        *("mkstemp", "NamedTemporaryFile", "rename", "move", "copyfile", "copy2"),
    }


def test_every_file_is_written_by_the_one_function():
    package = Path(SOURCE, "batchwright")
    found = {
        (path.relative_to(package).as_posix(), node.lineno)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and writes(node)
    }
    of_package = {"_files.py", "_array_file.py", "index.py"}
    of_package |= {"sources/index_folder.py"}  # a copy of a remote index, in a temporary folder
    # In processes where this package may not be installed.
    of_watched_runs = {f"doctor/watch/{each}.py" for each in ("recorder", "site/sitecustomize")}
    assert {path for path, _ in found} == of_package | of_watched_runs, sorted(found)
