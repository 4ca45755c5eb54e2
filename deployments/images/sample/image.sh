# The built-in guest book: this program and the libraries that it is linked with, and nothing else.

. "$images/program.sh"
command='["/usr/bin/try-it-now","sample-app"]'
env='["PATH=/usr/bin:/bin","HOST=0.0.0.0","PORT=80","INSTANCE_FILES=/etc/try-it-now"]'
