-- What wrk sends and how it reports; the words after "--" on its command line choose:
--   (nothing)            the one URL, over and over
--   paths FILE           the paths in FILE, one a line, at random
--   put PREFIX BYTES [SUFFIX]
--                        PUTs of so many bytes, each under a name of its own; the
--                        suffix comes after the name

local function read_lines(name)
   local lines = {}
   for line in io.lines(name) do
      lines[#lines + 1] = line
   end
   return lines
end

function init(args)
   if args[1] == "paths" then
      local requests = {}
      for i, path in ipairs(read_lines(args[2])) do
         requests[i] = wrk.format("GET", path)
      end
      math.randomseed(os.time())
      local count, random = #requests, math.random
      request = function()
         return requests[random(count)]
      end
   elseif args[1] == "put" then
      local prefix, filler = args[2], string.rep("x", tonumber(args[3]) - 16)
      local suffix = args[4] or ""
      local sent = 0
      request = function()
         sent = sent + 1
         return wrk.format("PUT", prefix .. sent .. suffix, nil, string.format("%016d", sent) .. filler)
      end
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'figures {"requests": %d, "microseconds": %d, "bytes": %d, "refused": %d, ' ..
      '"broken": %d, "late": %d, "p50_us": %d, "p99_us": %d}\n',
      summary.requests, summary.duration, summary.bytes, errors.status,
      errors.connect + errors.read + errors.write, errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
