"""Where others put plug-ins that name rule modules (rules.RuleModuleMaker).

Any directory `clinfra/plugins/` on the Python path counts, and needs no __init__.py.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
