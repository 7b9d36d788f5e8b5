"""The command `n3`: its verbs, its help, and what it says to a verb or a flag that it does not know."""

import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import docstring_parser
import pytest

import n3
from n3.cli import arguments, run_command
from n3.cli.command import VERBS, command_help
from n3.config import TaskConfig

ROOT = Path(__file__).parents[2]
HEAD = "import sys; from n3.cli import main; sys.argv[0] = 'n3'; main()"


@pytest.fixture
def command(capsys):
    """Call the command in this process: its exit code, and what it printed and complained of."""

    def call(*words):
        try:
            code = run_command([*map(str, words)])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return call


def test_the_package_installs_the_command():
    (entry,) = entry_points(group="console_scripts", name="n3")
    assert entry.value == "n3.cli:main"


def test_the_version_is_that_of_the_distribution(command):
    assert n3.__version__ == version("n3-growing")
    assert command("--version") == (0, (f"n3 {n3.__version__}\n", ""))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_verb_in_a_line(command, flag):
    code, said = command(flag)
    lines = said.out.splitlines()
    assert code == 0
    assert all(sum(line.strip().startswith(f"{verb} ") for line in lines) == 1 for verb in VERBS)
    assert max(map(len, lines)) <= 100


def test_without_a_verb_the_help_is_a_complaint(command):
    assert command() == (2, ("", command_help() + "\n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "Did you mean 'train'?"),
        (("nothing-like-it",), "use train, sweep, reproduce"),
        (("--steps", "5"), "is not a flag before the verb"),
        (("train", "--stepz", "5"), "--steps"),
        (("reproduce", "figure2"), "Did you mean 'figure-2'?"),
        (("verify",), "`folders` must name one run directory or more"),
        (("verify", "nowhere"), "nowhere"),
        (("report", "nowhere"), "`run` must be the finished run directory"),
        (("sweep", "--seeds", "2"), "`grid` must name one setting or more"),
    ],
)
def test_a_mistake_ends_with_code_2_and_its_remedy(command, words, message):
    code, said = command(*words)
    assert code == 2
    assert message in said.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(command, verb):
    code, said = command(verb, "--help")
    assert code == 0
    assert said.out.startswith(f"usage: n3 {verb} ")


def piped(words, pipe, **settings):
    """A command as a process whose output goes into a pipe."""
    line = f'{sys.executable} -c "{HEAD}" {words} {pipe}'
    environment = {**os.environ, **settings}
    done = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(done, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", ["--help", "sweep --help"])
def test_a_reader_that_leaves_early_is_no_fault(words):
    done = piped(words, "| true")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_color_is_respected():
    """A terminal of its own, by `script`, with colours unless they are not wanted."""
    line = ["script", "-qec", f'{sys.executable} -c "{HEAD}" verify --help', "/dev/null"]
    shown = {}
    for value in ("", "1"):
        environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": value}
        shown[value] = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120).stdout
    assert "\x1b[" in shown[""]
    assert "\x1b[" not in shown["1"]


@pytest.mark.parametrize(
    ("script", "verb"),
    [("train_growing", "train"), ("sweep", "sweep"), ("reproduce", "reproduce"), ("verify", "verify")],
)
def test_a_script_is_a_docstring_and_a_call(script, verb):
    text = (ROOT / "scripts" / f"{script}.py").read_text()
    assert f'run_script("{verb}")' in text
    assert len(text.splitlines()) <= 6


def test_help_of_several_lines_flows():
    with arguments._flowing_help():
        texts = [own.description for own in docstring_parser.parse_from_object(TaskConfig).params]
    assert any(len(text) > 150 for text in texts)
    assert not [text for text in texts if "\n" in text]


def test_help_says_what_one_number_of_seeds_means(command):
    _, said = command("train", "--help")
    assert "`20` is 0 to 19" in " ".join(said.out.replace("│", "").split())
