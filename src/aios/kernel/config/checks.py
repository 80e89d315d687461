"""Whether sections fit each other: every name leads somewhere, and to one place only. Knows no file."""

from __future__ import annotations

from aios.abi.calls import nearest

from .base import ConfigError
from .cores import check_core, model_of
from .sections import Config, MountSection


def check(config: Config, where: str) -> None:
    names = [core.name for core in config.core]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two cores are called '{name}'; each [[core]] needs a name of its own")
    for core in config.core:
        check_core(core, where)
    _check_names(config, names, where)
    _check_mounts(config.mount, where)


def _check_names(config: Config, names: list[str], where: str) -> None:
    """Each name that leads to cores leads to some, and to one place only."""
    models = [model.name for model in config.model]
    for model in config.model:
        if models.count(model.name) > 1 or model.name in names:
            what = "two [[model]]s are" if models.count(model.name) > 1 else "a [[model]] and a [[core]] are both"
            raise ConfigError(f"{where}: {what} called '{model.name}'; each needs a name of its own")
        if not model.cores:
            raise ConfigError(f"{where}: model '{model.name}' names no cores; list some under cores")
        for each in (*model.cores, *model.fallback):
            if each not in names:
                raise ConfigError(f"{where}: model '{model.name}' names no core: '{each}'{nearest(each, names)}")
    targets = [*names, *models, *map(model_of, config.core)]
    for alias, target in config.router.aliases.items():
        if alias in names or alias in models:
            raise ConfigError(f"{where}: the alias '{alias}' is the name of a core or model already")
        if target not in targets:
            raise ConfigError(
                f"{where}: the alias '{alias}' names no core and no model: '{target}'{nearest(target, targets)}"
            )
    default = config.router.default
    targets += config.router.aliases
    if default is not None and default not in targets:
        raise ConfigError(
            f"{where}: [router] default names no core and no model: '{default}'{nearest(default, targets)}"
        )
    for key, named in (
        ("[context] summarise_with", config.context.summarise_with),
        ("[memory] distil_with", config.memory.distil_with),
        ("[search] embed_with", config.search.embed_with),
    ):
        if named is not None and named not in targets:
            raise ConfigError(f"{where}: {key} names no core and no model: '{named}'{nearest(named, targets)}")
    _check_embeds(config, where)


def _check_embeds(config: Config, where: str) -> None:
    for core in config.core:
        if core.name == config.search.embed_with and core.kind in ("nano", "local", "anthropic"):
            others = [each.name for each in config.core if each.kind == "embed" or each.embeddings]
            hint = f"; {' and '.join(others)} can" if others else '; a [[core]] of kind "embed" can'
            raise ConfigError(f"{where}: [search] embed_with names core '{core.name}', which makes no vectors{hint}")


def _check_mounts(mounts: list[MountSection], where: str) -> None:
    names = [(mount.agent, mount.name) for mount in mounts]
    for mount in mounts:
        if names.count((mount.agent, mount.name)) > 1:
            raise ConfigError(f"{where}: two mounts are called '{mount.name}'; each needs a name of its own")
        owner, _, agent = (mount.agent or "a:a").partition(":")
        if not (owner and agent):
            raise ConfigError(
                f"{where}: mount '{mount.name}' has agent = {mount.agent!r:.60}; write agent = \"OWNER:AGENT\" "
                "('aios keys list' shows both)"
            )
        if mount.folder is not None and not mount.folder.startswith(("/", "~")):
            raise ConfigError(f"{where}: mount '{mount.name}': the folder {mount.folder!r:.200} is not absolute")
