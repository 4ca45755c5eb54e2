# A page in node with a catalogue in memory. It is one process with threads, whose memory is V8's.

suite=trixie
packages=(nodejs)
# Certificates, and programs that only maintainer scripts use.
leave_out=(ca-certificates 'openssl*' 'debconf*' 'perl*' 'libperl*' 'adduser' 'passwd')
command='["/usr/bin/node","/opt/app.js"]'
env='["PATH=/usr/bin:/usr/sbin","PORT=80"]'
