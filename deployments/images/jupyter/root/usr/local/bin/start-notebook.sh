#!/bin/bash
exec python3 -m jupyterlab --config=/etc/jupyter/jupyter_server_config.py "$@"
