"""What the tests of this room need before they load gRPC."""

import os

# As `render` does before it reads Triton's schema: tests that start programs run in this process.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
