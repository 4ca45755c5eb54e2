require_relative 'app'
run GuestBook
