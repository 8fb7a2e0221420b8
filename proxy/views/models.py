"""The models, as the documentation shows them (GET /v1/models).

What belongs here: their shape, and the bodies, made once for each set of settings. What does not: who may see them.
"""

from collections.abc import Mapping

import msgspec

from proxy.core.catalogue import Model
from proxy.core.errors import model_not_found

NAME_CHARS_MAX = 256
"""What of an unknown name is repeated in the answer."""


class Permission(msgspec.Struct, frozen=True):
    """What may be done with a model."""

    id: str
    object: str = "model_permission"
    allow_sampling: bool = True
    allow_view: bool = True
    allow_fine_tuning: bool = False


class ModelCard(msgspec.Struct, frozen=True):
    """One model. ``aliases`` are all names that it answers to, its own first."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    aliases: tuple[str, ...]
    max_model_len: int
    permission: tuple[Permission, ...]


class ModelList(msgspec.Struct, frozen=True):
    """All models, in the order of the settings."""

    object: str
    data: tuple[ModelCard, ...]


def card(model: Model) -> ModelCard:
    """Return a model as it is shown."""
    return ModelCard(
        model.id,
        "model",
        model.created,
        model.owned_by,
        model.id,
        (model.id, *(alias for alias in model.aliases if alias != model.id)),
        model.max_model_len,
        (Permission(f"modelperm-{model.id}-{model.created}"),),
    )


class ModelBodies:
    """The bodies of the answers, made again when the settings have been replaced."""

    def __init__(self) -> None:
        self._models: Mapping[str, Model] = {}
        self._all = b""
        self._each: dict[str, bytes] = {}

    def all(self, models: Mapping[str, Model]) -> bytes:
        """Return the list of them (``models``: by every name)."""
        self._learn(models)
        return self._all

    def one(self, models: Mapping[str, Model], name: str) -> bytes:
        """Return one of them by any of its names. Raises ApiError (404)."""
        self._learn(models)
        model = models.get(name)
        if model is None:
            raise model_not_found(name[:NAME_CHARS_MAX])
        return self._each[model.id]

    def _learn(self, models: Mapping[str, Model]) -> None:
        if models is not self._models:
            cards = {model.id: card(model) for model in models.values()}
            self._all = msgspec.json.encode(ModelList("list", tuple(cards.values())))
            self._each = {id_: msgspec.json.encode(shown) for id_, shown in cards.items()}
            self._models = models
