"""What ships, and that nothing else does."""

from __future__ import annotations

import configparser
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN_DIRECTORIES = ("handlers", "hooks")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def listed_packages() -> set[str]:
    return set(setup_cfg()["options"]["packages"].split())


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_package_in_the_tree_is_listed_and_nothing_else() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "eventproc").rglob("__init__.py")
        if "_bundled" not in path.parts
    }
    assert listed_packages() == found | {f"eventproc._bundled.{name}" for name in PLUGIN_DIRECTORIES}


@pytest.mark.parametrize("name", PLUGIN_DIRECTORIES)
def test_plugin_directories_are_not_packages(name: str) -> None:
    assert list((ROOT / name).glob("**/__init__.py")) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built the way a release is: from the source distribution of a clean copy of the tracked files."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, cwd=source)
    return next(target.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_leaks_nothing_generic_into_site_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"eventproc"}


@pytest.mark.slow
def test_the_wheel_carries_all_data_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT)).replace("hooks/", "eventproc/_bundled/hooks/", 1)
        for path in (ROOT / "hooks").glob("*.yaml")
    }
    wanted |= {f"eventproc/_bundled/handlers/{path.name}" for path in (ROOT / "handlers").glob("*.py")}
    data = {".jinja", ".txt", ".html", ".css", ".js", ".mako", ".typed", ".json", ".proto"}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "eventproc").rglob("*") if path.suffix in data}
    wanted |= {"eventproc/py.typed"}
    assert wanted - shipped == set()


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_an_install_works_from_outside_the_checkout(wheel: Path, *, editable: bool, tmp_path: Path) -> None:
    """The installed command finds its hooks and handlers, and neither directory is importable by its bare name."""
    environment = tmp_path / "venv"
    # Dependencies come from the interpreter that runs the tests; only the project itself is installed anew.
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (site / "outer.pth").write_text("\n".join(outer) + "\n")
    what = ["--editable", str(ROOT)] if editable else [str(wheel)]
    pip = f"{sys.executable} -m pip --python {python} install -q --no-deps --no-build-isolation".split()
    run(*pip, "--ignore-installed", *what, cwd=tmp_path)
    listing = run(
        python,
        "-c",
        "from eventproc.plugins import bundled_dir as b; print(b('hooks')); print(b('handlers'))",
        cwd=tmp_path,
    )
    for line in listing.splitlines():
        assert Path(line).is_dir()
        assert Path(line).is_relative_to(ROOT if editable else environment)
    for name in (*PLUGIN_DIRECTORIES, "tests"):
        done = subprocess.run(
            [str(python), "-I", "-c", f"import {name}"], cwd=tmp_path, capture_output=True, check=False
        )
        assert b"ModuleNotFoundError" in done.stderr, name
    assert "Usage" in run(environment / "bin" / "eventproc", "--help", cwd=tmp_path)


def test_importing_eventproc_is_light() -> None:
    """`import eventproc` pulls none of the heavy packages: handler authors and scripts pay for what they use."""
    heavy = ["sqlalchemy", "numpy", "fastapi", "pika", "dill", "httpx", "numba", "pydantic", "jinja2", "click"]
    code = f"import sys, eventproc; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=Path("/")).strip() == "[]"


def test_the_lock_pins_every_dependency_with_hashes() -> None:
    """Each declared dependency is pinned in the lock, and each pin has a digest."""
    options = setup_cfg()["options"]["install_requires"].split("\n")
    declared = {line.split()[0].split("[")[0].split(">")[0].split("=")[0].lower() for line in options if line.strip()}
    lock = (ROOT / "requirements" / "run.txt").read_text()
    pinned = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line and not line.startswith(" ")}
    assert declared - pinned == set()
    blocks = lock.replace("\\\n", " ").splitlines()
    assert all("--hash=sha256:" in line for line in blocks if "==" in line)
