# Draws from every generator of Ruby, at each line that a visitor sends.
require "openssl"
require "securerandom"
require "socket"

def draw
  [
    "secret SecureRandom.hex #{SecureRandom.hex(16)}",
    "secret SecureRandom.uuid #{SecureRandom.uuid}",
    "secret OpenSSL::Random #{OpenSSL::Random.random_bytes(16).unpack1("H*")}",
    "secret OpenSSL::BN.rand #{OpenSSL::BN.rand(128)}",
    "secret Random.urandom #{Random.urandom(16).unpack1("H*")}",
    "open Random.rand #{Random.rand}",
  ].join("\n")
end

listener = TCPServer.new("127.0.0.1", ENV["PORT"].to_i)
loop do
  visitor = listener.accept
  visitor.write(draw) if visitor.gets
  visitor.close
end
