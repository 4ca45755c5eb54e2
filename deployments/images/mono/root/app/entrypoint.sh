#!/bin/sh
set -e
[ guests.exe -nt Guests.cs ] || mono /usr/lib/mono/4.5/mcs.exe -optimize -out:guests.exe Guests.cs
exec "$@"
