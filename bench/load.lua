-- What wrk asks for: whole files, or with `-- SIZE` 64 KiB ranges anywhere in a file of SIZE bytes. It prints JSON.
local range = 65536

function init(args)
    size = tonumber(args[1])
    math.randomseed(1)
end

function request()
    if not size then return wrk.format() end
    local first = math.random(0, size - range)
    return wrk.format(nil, nil, {Host = wrk.headers.Host, Range = "bytes=" .. first .. "-" .. (first + range - 1)})
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('{"microseconds": %d, "requests": %d, "bytes": %.0f, "errors": %d}\n', summary.duration,
        summary.requests, summary.bytes, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
