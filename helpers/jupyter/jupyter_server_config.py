"""JupyterLab for the workbook: at the first notebook, on this machine only, with no news.

`make lab` finds this folder through JUPYTER_CONFIG_PATH; `environment.yml` sets the same.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 - JupyterLab defines it

clone = Path(__file__).resolve().parents[2]

# Kernels inherit it: `import helpers` works in a conda environment too, whatever the kernel's
# working directory.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(clone), os.environ.get("PYTHONPATH", "")])
)

# Extensions come from the lock. The manager that lists others would ask the package index.
c.LabApp.extension_manager = "readonly"

# A hub decides these itself.
if "JUPYTERHUB_SERVICE_PREFIX" not in os.environ:
    c.ServerApp.root_dir = str(clone)
    c.ServerApp.ip = "127.0.0.1"
    c.ServerApp.allow_root = True  # root in a container is the rule there, not the exception
    c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
