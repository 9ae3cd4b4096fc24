"""The table of mutations: what is broken, where, and which tests should notice.

`old` stands in `file` exactly once. The mutation replaces it by `new`. `tests/test_mutations.py` checks that, so code
that moves takes its mutations along. A mutation that changes nothing a user could observe does not belong here.
"""

from mutations.rooms import (
  cli,
  configuration,
  core,
  csrc,
  data,
  editing,
  evaluation,
  experiments,
  inference,
  inspection,
  kernels,
  nn,
  runs,
  system,
  training,
)

MUTATIONS = tuple(
  mutation
  for room in (
    core,
    nn,
    editing,
    data,
    configuration,
    runs,
    system,
    training,
    evaluation,
    inference,
    inspection,
    cli,
    kernels,
    csrc,
    experiments,
  )
  for mutation in room.MUTATIONS
)
