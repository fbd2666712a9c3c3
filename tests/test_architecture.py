"""The house stays in order: who imports whom, how long things are, what is documented; all measured from the code."""

import ast
import io
import pytest
import statistics
import tokenize

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the ground up. A module imports from its own layer and from those below it; a new one finds its place here.
LAYERS = (
    ("catalogue", "clock", "errors", "files", "random", "registry", "tensors"),
    ("signals", "values"),
    ("batch", "derivatives", "ema", "losses", "workers"),
    ("nets", "paths"),
    ("times",),
    ("curricula", "grids"),
    ("maps",),
    ("editing", "exact", "machine", "samplers", "solvers"),
    ("modality",),
    ("judge", "labelling", "listing", "objectives"),
    ("guidance", "scripted"),
    ("build", "bundle"),
    ("evaluation", "generation", "model", "training"),
    ("synthesis",),
    ("__init__", "config"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
CORE = "cm_multimodal"
FORBIDDEN = {
    CORE: {"modalities", "benchmarks", "tests"},
    "modalities": {"benchmarks", "tests", f"{CORE}.cli", f"{CORE}.commands", f"{CORE}.config"},
    "benchmarks": {"tests"},
    "tests": {"benchmarks"},
}
LOOK_UP = f"{CORE}.modality"

MAX_FILE = 400
MAX_FUNCTION = 60
MEDIAN_FUNCTION = 12
P90_FUNCTION = 40
MIN_ANNOTATED = 0.95
MAX_COMMENTS = 0.04


@dataclass(frozen=True)
class Function:
    """A function's name, length in lines and arguments (name: annotated)."""

    name: str
    lines: int
    arguments: dict[str, bool]


@dataclass(frozen=True)
class Module:
    """A source file under its dotted name; a package goes by its own name."""

    name: str
    file: Path

    @cached_property
    def source(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"

    @property
    def lines(self) -> int:
        return len(self.source.splitlines())

    @property
    def comments(self) -> int:
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)

    def imports(self) -> Iterator[tuple[str, str]]:
        """Yields every import anywhere in the file: the dotted module, and the name taken from it or ''."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node.module or "", node.level)
                yield from ((base, alias.name) for alias in node.names)

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield _function(child, is_method=isinstance(node, ast.ClassDef))

    def _absolute(self, name: str, level: int) -> str:
        parts = self.name.split(".")
        base = parts[: len(parts) - level + self.is_package] if level else []
        return ".".join([*base, *filter(None, [name])])


@dataclass
class House:
    """The modules of some packages below one folder."""

    root: Path
    packages: tuple[str, ...]
    modules: dict[str, Module] = field(init=False)

    def __post_init__(self) -> None:
        files = [file for package in self.packages for file in sorted((self.root / package).rglob("*.py"))]
        self.modules = {name: Module(name, file) for name, file in ((self._name(file), file) for file in files)}

    def _name(self, file: Path) -> str:
        parts = file.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def edges(self) -> dict[str, set[str]]:
        """Returns which modules of the house each of them imports; `from p import m` reaches m where m is a module."""
        graph = {}
        for name, module in self.modules.items():
            pairs = [(base, f"{base}.{taken}") for base, taken in module.imports()]
            graph[name] = {inner if inner in self.modules else base for base, inner in pairs} & self.modules.keys()
        return graph


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> Function:
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    positional = [*node.args.posonlyargs, *node.args.args][1 if is_method and not static else 0 :]
    extra = [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
    arguments = {a.arg: a.annotation is not None for a in (*positional, *node.args.kwonlyargs, *extra)}
    return Function(node.name, (node.end_lineno or node.lineno) - node.lineno + 1, arguments)


def _room(name: str) -> str:
    """The part of a module's name that its place in the house goes by: what follows the package."""
    return name.split(".")[1] if "." in name else "__init__"


def _strings(tree: ast.Module) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def upward_imports(house: House) -> list[str]:
    """The core's imports from a higher layer, and its modules that have no place in the table."""
    rank = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    core = {name: reached for name, reached in house.edges().items() if name.split(".")[0] == CORE}
    lost = [f"{name} has no place in LAYERS" for name in core if _room(name) not in rank]
    return lost + [
        f"{name} imports {other}, which stands above it"
        for name, reached in core.items()
        for other in sorted(reached)
        if rank.get(_room(name), 0) < rank.get(_room(other), 0)
    ]


def forbidden_imports(house: House) -> list[str]:
    """Imports of a package that the importing one must not know."""
    return [
        f"{name} imports {base}.{taken}".rstrip(".")
        for name, module in house.modules.items()
        for base, taken in module.imports()
        if any(f"{base}.{taken}.".startswith(f"{other}.") for other in FORBIDDEN[name.split(".")[0]])
    ]


def hidden_look_ups(house: House) -> list[str]:
    """Core modules other than the one look-up that name the modalities' package in a string."""
    core = {name: module for name, module in house.modules.items() if name.split(".")[0] == CORE and name != LOOK_UP}
    return [
        f"{name} names '{text}'"
        for name, module in core.items()
        for text in _strings(module.tree)
        if text == "modalities" or text.startswith("modalities.")
    ]


def cycles(house: House) -> list[str]:
    """Import cycles between modules, and between the parts of a package."""
    modules = house.edges()
    rooms: dict[str, set[str]] = {}
    for name, reached in modules.items():
        room = f"{name.split('.')[0]}.{_room(name)}"
        rooms.setdefault(room, set()).update(f"{other.split('.')[0]}.{_room(other)}" for other in reached)
        rooms[room].discard(room)
    return [text for graph in (modules, rooms) if (text := _cycle(graph))]


def _cycle(graph: dict[str, set[str]]) -> str:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def long_files(house: House) -> list[str]:
    return [f"{m.name}: {m.lines} lines" for m in house.modules.values() if m.lines > MAX_FILE]


def long_functions(house: House) -> list[str]:
    functions = [(m.name, f) for m in house.modules.values() for f in m.functions()]
    return [f"{name}.{f.name}: {f.lines} lines" for name, f in functions if f.lines > MAX_FUNCTION]


def usual_lengths(house: House) -> list[str]:
    """What the middle and the ninetieth percentile of the functions' lengths exceed."""
    lengths = sorted(f.lines for m in house.modules.values() for f in m.functions())
    middle, tail = statistics.median(lengths), lengths[int(0.9 * (len(lengths) - 1))]
    found = [f"the median function has {middle} lines"] if middle > MEDIAN_FUNCTION else []
    return found + ([f"one function in ten has more than {tail} lines"] if tail > P90_FUNCTION else [])


def bare_arguments(house: House) -> list[str]:
    """Arguments without an annotation, where there are too many of them."""
    arguments = {
        f"{m.name}.{f.name}({name})": annotated
        for m in house.modules.values()
        for f in m.functions()
        for name, annotated in f.arguments.items()
    }
    bare = [name for name, annotated in arguments.items() if not annotated]
    return bare if len(bare) > (1 - MIN_ANNOTATED) * len(arguments) else []


def undocumented(house: House) -> list[str]:
    """Public modules without a docstring or `__all__`; a package that only holds modules needs neither."""
    found = []
    for module in house.modules.values():
        rest = [node for node in module.tree.body if not isinstance(node, ast.Expr)]
        if module.file.stem.startswith("_") and not (module.is_package and rest):
            continue
        if not ast.get_docstring(module.tree):
            found.append(f"{module.name} has no docstring")
        if not any("__all__" in _targets(node) for node in rest):
            found.append(f"{module.name} has no __all__")
    return found


def _targets(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def chatty(house: House) -> list[str]:
    """Files with too large a share of lines that are comments (two are always fine)."""
    counts = [(m.name, m.comments, max(2.0, MAX_COMMENTS * m.lines)) for m in house.modules.values()]
    return [f"{name}: {count} lines of comments" for name, count, limit in counts if count > limit]


RULES = (
    upward_imports, hidden_look_ups, cycles, long_files, long_functions, usual_lengths, bare_arguments, undocumented,
    chatty,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_obey(rule):
    found = rule(House(ROOT, (CORE, "modalities")))
    assert not found, "\n".join(["", *found])


def test_nobody_imports_what_it_must_not_know():
    found = forbidden_imports(House(ROOT, tuple(FORBIDDEN)))
    assert not found, "\n".join(["", *found])


def test_files_everywhere_are_short():
    found = long_files(House(ROOT, ("benchmarks", "tests")))
    assert not found, "\n".join(["", *found])


@pytest.fixture
def build(tmp_path):
    """Writes a small house from {path: source}."""

    def write(files: dict[str, str]) -> House:
        for path, source in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        return House(tmp_path, tuple(sorted({path.split("/")[0] for path in files})))

    return write


SOUND = {
    "cm_multimodal/__init__.py": '"""A core."""\n',
    "cm_multimodal/tensors.py": '"""Below."""\n\n__all__ = ["f"]\n\n\ndef f(x: int) -> int:\n    return x\n',
    "cm_multimodal/maps.py": '"""Above."""\n\n__all__ = []\n\nfrom . import paths\nfrom .tensors import f\n',
    "cm_multimodal/paths/__init__.py": "",
    "cm_multimodal/paths/linear.py": '"""In between."""\n\n__all__ = []\n\nfrom ..tensors import f\n',
    "modalities/image.py": '"""Outside."""\n\n__all__ = []\n\nfrom cm_multimodal.maps import f\n',
}
LONG = "def g(x: int) -> int:\n" + "    x += 1\n" * 61 + "    return x\n"
BROKEN = {
    "an upward import": (upward_imports, "cm_multimodal/tensors.py", "from .maps import f\n"),
    "one inside a function": (upward_imports, "cm_multimodal/paths/linear.py", "def g():\n    from .. import maps\n"),
    "a module without a place": (upward_imports, "cm_multimodal/utils.py", ""),
    "a cycle of modules": (cycles, "cm_multimodal/tensors.py", "from cm_multimodal.paths.linear import f\n"),
    "a cycle for the type checker": (
        cycles, "cm_multimodal/tensors.py", "if TYPE_CHECKING:\n    from .maps import f\n",
    ),
    "a cycle of packages": (cycles, "cm_multimodal/paths/vp.py", "from ..maps import f\n"),
    "the core knowing images": (forbidden_imports, "cm_multimodal/maps.py", "import modalities.image\n"),
    "a modality knowing commands": (forbidden_imports, "modalities/image.py", "from cm_multimodal import cli\n"),
    "a modality imported by name": (hidden_look_ups, "cm_multimodal/maps.py", "f = 'modalities.image'\n"),
    "a long file": (long_files, "cm_multimodal/maps.py", "f = 1\n" * 401),
    "a long function": (long_functions, "cm_multimodal/maps.py", LONG),
    "a long method": (long_functions, "cm_multimodal/maps.py", "class A:\n    " + LONG.replace("\n", "\n    ")),
    "long functions": (usual_lengths, "cm_multimodal/maps.py", LONG + LONG.replace("g", "h")),
    "bare arguments": (bare_arguments, "cm_multimodal/maps.py", "class A:\n    def g(self, x, *y, z=1): ...\n"),
    "no docstring": (undocumented, "cm_multimodal/paths/linear.py", "__all__ = []\n"),
    "no __all__": (undocumented, "modalities/image.py", '"""Says."""\n'),
    "a package that does things unsaid": (undocumented, "cm_multimodal/paths/__init__.py", "from . import linear\n"),
    "too many comments": (chatty, "cm_multimodal/maps.py", "# so\nf = 1\n" * 3),
}  # fmt: skip
MERELY_ADDED = {"cm_multimodal/tensors.py", "cm_multimodal/maps.py"}


def test_a_sound_house_obeys(build):
    house = build(SOUND)
    assert house.edges()["cm_multimodal.maps"] == {"cm_multimodal.paths", "cm_multimodal.tensors"}
    assert not [found for rule in (*RULES, forbidden_imports) for found in rule(house)]


@pytest.mark.parametrize("name", BROKEN)
def test_what_falls_apart_is_found(build, name):
    rule, path, source = BROKEN[name]
    before = SOUND.get(path, "") if path in MERELY_ADDED else ""
    assert rule(build({**SOUND, path: before + source}))
