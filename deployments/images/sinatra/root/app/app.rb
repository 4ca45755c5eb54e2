require 'sinatra/base'
require 'sqlite3'

# A guest book. Each worker counts its requests in its memory.
class GuestBook < Sinatra::Base
  enable :sessions
  set :session_secret, ENV.fetch('SESSION_SECRET', 'for tests only ' * 8)
  set :host_authorization, permitted_hosts: []
  COUNT = Queue.new

  def self.disconnect
    @database&.close
    @database = nil
  end

  def self.database
    @database ||= SQLite3::Database.new('tmp/guests.sqlite3').tap do |database|
      database.busy_timeout = 20_000
      # With another journal SQLite refuses to write to a file whose number has changed since it was opened, as in a
      # restored instance.
      database.execute('PRAGMA journal_mode = WAL')
      database.execute('CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, text TEXT NOT NULL)')
    end
  end

  LOCK = Mutex.new

  get '/' do
    COUNT << nil
    entries = LOCK.synchronize { self.class.database.execute('SELECT text FROM entries ORDER BY id DESC') }
    erb :index, locals: { entries: entries.flatten, requests: COUNT.size, last: session[:last] }
  end

  post '/' do
    session[:last] = params.fetch('text')
    LOCK.synchronize { self.class.database.execute('INSERT INTO entries (text) VALUES (?)', [session[:last]]) }
    redirect to('/'), 303
  end

  get '/up' do
    "up #{Process.pid}"
  end

  template :index do
    <<~PAGE
      <!doctype html>
      <title>A guest book of your own</title>
      <h1>A guest book of your own</h1>
      <p>Worker <b id="worker"><%= Process.pid %></b>, request <b id="requests"><%= requests %></b></p>
      <p>You wrote: <i id="last"><%= Rack::Utils.escape_html(last.to_s) %></i></p>
      <form method="post" action="/"><input name="text"><button>Write</button></form>
      <ul>
      <% entries.each do |text| %>
        <li><%= Rack::Utils.escape_html(text) %></li>
      <% end %>
      </ul>
    PAGE
  end
end
