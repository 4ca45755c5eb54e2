-- Reads all nodes.
--
-- ARGV: now, capacity.
return append_nodes({})
