"""Apache CloudStack: one virtual machine a call, asynchronous jobs that are looked at and never waited for.

`provider` has the verbs, `launching` makes machines once each, `machines` reads the cloud's rows, `jobs` what became of
what was asked, `template` what a pool may say, `names` turns names into ids, `inspection` looks before a launch,
`connection` is libcloud's connection class below its driver, `account` where the keys are, `errors` the translation.
"""

from .provider import CloudStackProvider

__all__ = ["CloudStackProvider"]
