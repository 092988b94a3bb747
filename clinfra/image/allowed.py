"""What may be asked for on demand, and by whom.

Pure.  Making a picture is work, so strangers choose from a list: the presets, by name,
and the configured recipes, in any format.  Whoever has a signed address gets whatever
it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs
from attrs import frozen

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems, Forbidden, InvalidRequest, Trouble
from clinfra.image.accept import AUTO_FORMATS, settled
from clinfra.image.signing import Keys, is_signed
from clinfra.image.sizes import EXTENSIONS, Recipe, parse_recipe, parse_size

_PRESET = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_TAKEN = frozenset({"full", "gallery", "info"})


@frozen
class Asked:
    """What an address asks for.

    Attributes:
        recipe: its format may still be "auto".
        expires: unix seconds after which the address means nothing; None for never.
        fixed: what the address means does not change with the configuration.
    """

    recipe: Recipe
    expires: int | None
    fixed: bool


@frozen
class Allowed:
    """The lists and keys of one configuration.

    Attributes:
        presets: name → recipe.
        listed: as configured → recipe, for anybody.
        keys: of signed addresses.
    """

    presets: Mapping[str, Recipe]
    listed: Mapping[str, Recipe]
    keys: Keys
    max_size_pixels: int

    @classmethod
    def of(cls, config: ImageConfig, more_keys: tuple[str, ...] = ()) -> Allowed:
        """Read a configuration.

        Args:
            more_keys: of `signing_keys_file`.

        Raises:
            ConfigProblems: with everything that is wrong.
        """
        problems: list[str] = []
        presets = {}
        for name, text in config.presets.items():
            if not _PRESET.fullmatch(name) or name in _TAKEN:
                problems.append(f"image.presets: {name!r} cannot be a name")
            recipe = _read(f"image.presets.{name}", text, config, problems)
            if recipe is not None:
                presets[name] = recipe
        key, texts = "image.recipes", config.recipes
        if texts is None:
            key, texts = "image.sizes", config.sizes
        listed = {}
        for text in texts:
            recipe = _read(key, text, config, problems)
            if recipe is not None:
                listed[text] = recipe
        for name in config.auto_formats:
            if name not in AUTO_FORMATS:
                problems.append(
                    f"image.auto_formats: {name!r} is not one of"
                    f" {', '.join(AUTO_FORMATS)}"
                )
        keys = Keys(())
        try:
            keys = Keys.of((*more_keys, *config.signing_keys))
        except ValueError as error:
            problems.append(f"image.signing_keys: {error}")
        if problems:
            raise ConfigProblems(problems)
        return cls(presets, listed, keys, config.max_size_pixels)

    def and_signed_by(self, key: str) -> Allowed:
        """Return the same, where what was signed by one more key is allowed too."""
        return attrs.evolve(self, keys=self.keys.and_verify(key))

    def resolve(self, text: str, path: bytes, query: bytes, now: float) -> Asked:
        """Return what an address asks for.

        Args:
            text: the part of its path that is a recipe or the name of a preset.
            path: all of it.
            now: unix seconds.

        Raises:
            InvalidRequest: not a recipe.
            Forbidden: not one that may be asked for like this.
        """
        expires = None
        signed = is_signed(query)
        if signed:
            expires = self.keys.verify(path, query, now)
        recipe = self._preset(text)
        if recipe is not None:
            return Asked(recipe, expires, fixed=False)
        recipe = self.listed.get(text) or parse_recipe(text)
        if recipe.exact_pixels > self.max_size_pixels:
            raise InvalidRequest(f"Size too large: {recipe.name}")
        if not signed and recipe.stem not in {
            each.stem for each in self.listed.values()
        }:
            raise Forbidden(self._refusal(recipe))
        return Asked(recipe, expires, fixed=True)

    def _preset(self, text: str) -> Recipe | None:
        """Return the recipe of a preset's name, with or without an extension."""
        if text in self.presets:
            return self.presets[text]
        name, _, extension = text.rpartition(".")
        if name in self.presets and extension in EXTENSIONS:
            return settled(self.presets[name], EXTENSIONS[extension])
        return None

    def _refusal(self, recipe: Recipe) -> str:
        names = ", ".join([*self.presets, *self.listed]) or "nothing"
        return (
            f"{recipe.name} is made for signed addresses only;"
            f" without a signature there is: {names}."
        )


def _read(
    key: str, text: str, config: ImageConfig, problems: list[str]
) -> Recipe | None:
    try:
        try:
            recipe = parse_recipe(text)
        except InvalidRequest:
            # Perhaps one of the original's sizes, with characters of no meaning.
            recipe = parse_size(text)
    except Trouble as trouble:
        problems.append(f"{key}: {text!r}: {trouble.sentence}")
        return None
    if recipe.exact_pixels > config.max_size_pixels:
        problems.append(f"{key}: {text!r} has more pixels than image.max_size_pixels")
        return None
    return recipe
