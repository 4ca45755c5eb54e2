# A page in node that keeps a catalogue in memory, as many apps do with what they know. One process with threads, whose
# memory is V8's.

suite=trixie
packages=(nodejs)
# Certificates and what maintainer scripts use.
leave_out=(ca-certificates 'openssl*' 'debconf*' 'perl*' 'libperl*' 'adduser' 'passwd')
command='["/usr/bin/node","/opt/app.js"]'
env='["PATH=/usr/bin:/usr/sbin","PORT=80"]'
