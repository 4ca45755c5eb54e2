# Each instance belongs to one visitor, who has its address from the page with the button. So there is no token beside it.
import os

c = get_config()  # noqa: F821
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = int(os.environ["JUPYTER_PORT"])
c.ServerApp.open_browser = False
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}
c.IdentityProvider.token = os.environ.get("JUPYTER_TOKEN", "")
# An instance has no way to the Internet.
c.LabApp.news_url = None
c.LabApp.extension_manager = "readonly"
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
