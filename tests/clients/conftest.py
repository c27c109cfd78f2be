"""A town whose customer has a phone, the clients of others, and our own, compiled."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients import make_city
from tests.support.node import ROOT, Node, built, find_node, install_packages
from tests.support.town import Town

CLIENT = ROOT / "clients" / "typescript"


@pytest.fixture(scope="session")
def node() -> Node:
    return find_node()


@pytest.fixture(scope="session")
def scripts(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripts, where they find their packages and the ready operations."""
    modules = install_packages(node, "clients", Path(__file__).parent)
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(Path(__file__).parent / "scripts", folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "clients" / "operations", folder / "operations")
    (folder / "node_modules").symlink_to(modules)
    return folder


@pytest.fixture(scope="session")
def our_client(node: Node) -> Path:
    """The folder of our own client: generated from the committed schema, type-checked and compiled, examples too."""
    modules = install_packages(node, "our-client", CLIENT)
    sources = [
        path for pattern in ("*.ts", "*.mjs", "*.json", "src/*.ts", "examples/*.ts") for path in CLIENT.glob(pattern)
    ]
    inputs = [*sources, *(ROOT / "clients" / "operations").glob("*.graphql"), ROOT / "docs" / "schema.graphql"]

    def build(folder: Path) -> None:
        for path in inputs:
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        (folder / "clients" / "typescript" / "node_modules").symlink_to(modules)
        node.call(folder / "clients" / "typescript", *node.npm, "run", "build")

    return built("our-client-build", inputs, build) / "clients" / "typescript"


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town whose customer gets texts, at the number PHONE."""
    async with make_city(database_url, tmp_path) as town:
        yield town
