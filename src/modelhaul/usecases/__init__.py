"""What people come for: resolve, plan, run, report. Not named in the package itself.

A package of its own because `modelhaul.download` and `modelhaul.get` are functions: modules of that
name beside them would take their place once somebody imports them.
"""
