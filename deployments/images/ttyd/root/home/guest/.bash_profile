# The time at which this terminal was opened, in seconds since 1970.
opened=$(date +%s)
PS1='\w\$ '
