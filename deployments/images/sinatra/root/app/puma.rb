workers 2
threads 2, 4
preload_app!
bind 'tcp://0.0.0.0:9292'
pidfile 'tmp/server.pid'
before_fork { GuestBook.disconnect }
