"""A node's folder: identity, its owner's settings, ledger, and the models it received. It survives everything."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from pydantic import Field, ValidationError

from edgekit.environments import data_home
from edgekit.errors import JoinError
from edgekit.runfolder import locked, secret_number, write_whole
from edgekit.section import Section, first_problem

Fact = Literal["battery", "load", "temperature", "memory", "statistics"]
Condition = Literal["idle", "charging", "unmetered"]


class NodeSettings(Section):
    """What the device's owner wants: `node.toml`, which people may edit.

    `edgekit join` writes it; each option of the command is a key here.
    """

    url: str
    """Where the coordinator is."""
    name: str
    data: str = ""
    """Where this device's examples are, as `data.source` of an experiment."""
    client: Annotated[int, Field(ge=-1)] = -1
    """Instead of `data`, the share of this client of the experiment's data (for trying out); -1 for `data`."""
    party: str = ""
    """With features of people whom other parties know too: which party this device is."""
    trainer: Literal["auto", "torch", "litert"] = "auto"
    epsilon: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """The most that may be spent of the data's privacy, over all tasks and runs; 0 is what the first task takes."""
    delta: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5
    """The other half of the guarantee; a task's own delta counts if it is smaller."""
    share: list[Fact] = Field(default=[])
    """What may be told of the device beside its updates."""
    only_when: list[Condition] = Field(default=[])
    """When the device trains; always, if empty."""
    most_rounds: Annotated[int, Field(ge=0)] = 0
    """Rounds of one run that the device takes part in at most; 0 is as many as there are."""
    rounds_apart: Annotated[int, Field(ge=0)] = 0
    """Rounds of one run from one that the device takes part in to the next; 0 or 1 is each."""
    modules: list[str] = Field(default=[])
    """Modules of this device that a task may name (as a network or a data set); none, if empty."""


class Membership(Section):
    """What joining gave: `membership.json`.

    Attributes:
        node_id: Flower's.
        signing_key: of the coordinator, hexadecimal: what it delivers is signed by it.
        secure: whether the coordinator speaks TLS.
    """

    node_id: int
    signing_key: str
    secure: bool


class NodeFolder:
    """The files of one node.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node_settings_file = path / "node.toml"
        self.membership_file = path / "membership.json"
        self.authority_file = path / "authority.crt"
        self.key_file = path / "node.key"
        self.ledger = path / "privacy.jsonl"
        self.ledger_head = path / "privacy.head"
        self.agreement = path / "agreement.json"
        self.inbox = path / "inbox"
        self.tasks = path / "tasks"
        self.models = path / "models"
        self.states = path / "states"
        self.rounds = path / "rounds"

    @property
    def joined(self) -> bool:
        """Whether this node has joined a coordinator."""
        return self.membership_file.exists() and self.node_settings_file.exists()

    def node_settings(self) -> NodeSettings:
        """Return the owner's settings.

        Raises:
            JoinError: the file is missing or breaks the schema; the key is named.
        """
        try:
            return NodeSettings.model_validate(tomllib.loads(self.node_settings_file.read_bytes().decode()))
        except FileNotFoundError:
            raise JoinError(f"{self.path} holds no node: join first, with edgekit join URL#CODE") from None
        except ValidationError as error:
            raise JoinError(f"{self.node_settings_file}: {first_problem(error)}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise JoinError(f"{self.node_settings_file} cannot be read: {error}") from None

    def keep_node_settings(self, node_settings: NodeSettings) -> None:
        """Write the owner's settings down."""
        write_whole(self.node_settings_file, tomli_w.dumps(node_settings.model_dump()))

    def membership(self) -> Membership:
        """Return what joining gave.

        Raises:
            JoinError: it is missing or damaged.
        """
        try:
            return Membership.model_validate_json(self.membership_file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise JoinError(f"{self.membership_file} cannot be read ({reason}): join again, with a new code") from None

    def keep_membership(self, membership: Membership, authority: bytes) -> None:
        """Write down what joining gave; the membership comes last, so that it is there only with the rest."""
        write_whole(self.authority_file, authority)
        write_whole(self.membership_file, membership.model_dump_json(), mode=0o600)

    def authority(self) -> bytes | None:
        """Return the certificate authority to trust; None where the coordinator does without TLS."""
        return self.authority_file.read_bytes() if self.membership().secure else None

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return this node's key, made on first use; it is never sent. (In OpenSSH's form, which Flower's node reads.)

        Raises:
            JoinError: the file holds something else.
        """
        if not self.key_file.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            write_whole(self.key_file, pem, mode=0o600)
        try:
            found = load_ssh_private_key(self.key_file.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise JoinError(f"{self.key_file} cannot be read ({error}): restore it, or join again elsewhere") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise JoinError(f"{self.key_file} is not a key of a NIST curve")
        return found

    def public_key(self) -> str:
        """Return this node's public key, PEM."""
        public = self.key().public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def secret(self) -> int:
        """Return the number that this node's noise comes from: nobody else's to know, and the same after a crash."""
        path = self.path / "secret"
        lost = JoinError(f"{path} cannot be read: without it, spent privacy cannot be counted; restore it")
        return secret_number(path, 256, lost)

    @contextmanager
    def only_one(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder: two processes would spend one budget twice.

        Args:
            wait: for another process to let go of it, instead of refusing.

        Raises:
            JoinError: another process has it.
        """
        taken = JoinError(f"another process runs the node of {self.path}: stop it first")
        with locked(self.path, taken, wait=wait):
            yield


def default_folder() -> Path:
    """Return where this device's node is kept, unless its owner says otherwise."""
    return data_home() / "node"
