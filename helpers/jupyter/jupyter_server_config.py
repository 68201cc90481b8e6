"""JupyterLab for the workbook: at the first notebook, on this machine only, with no news.

`make lab` finds this folder through JUPYTER_CONFIG_PATH; `environment.yml` sets the same.
"""

import contextlib
import os
from pathlib import Path

import nbformat
from nbformat.sign import NotebookNotary

c = get_config()  # noqa: F821 - JupyterLab defines it

clone = Path(__file__).resolve().parents[2]

# Kernels inherit it: `import helpers` works in a conda environment too, whatever the kernel's
# working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(clone), os.environ.get("PYTHONPATH", "")])
)

# Extensions come from the lock. The manager that lists others would ask the package index.
c.LabApp.extension_manager = "readonly"

# The terminal shows the address to open, and warnings that are worth reading: not those about the
# distance between a kernel and its server, which share this machine, or about ping defaults.
c.Application.log_level = "WARN"
c.KernelManager.transport_encryption = "auto"
c.ServerApp.tornado_settings = {"ws_ping_interval": 30_000, "ws_ping_timeout": 30_000}

# A hub decides these itself.
if "JUPYTERHUB_SERVICE_PREFIX" not in os.environ:
    c.ServerApp.root_dir = str(clone)
    c.ServerApp.ip = "127.0.0.1"
    c.ServerApp.allow_root = True  # root in a container is the rule there, not the exception
    c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"

# The outputs that came with the clone are shown as they were stored: JupyterLab would strip what
# it has not seen running here. One notebook that cannot be read must not keep the others closed.
notary = NotebookNotary()
for path in sorted(clone.glob("notebooks/*.ipynb")):
    with contextlib.suppress(Exception):
        notary.sign(nbformat.read(path, as_version=4))
notary.store.close()
