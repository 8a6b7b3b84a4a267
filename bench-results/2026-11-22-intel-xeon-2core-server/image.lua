local f=io.open("recipes/efficientnet/examples/coffee.jpg","rb"); local d=f:read("*a"); f:close()
wrk.method="POST"; wrk.headers["Content-Type"]="image/jpeg"; wrk.body=d
local ms=tonumber(os.getenv("DELAY_MS") or "0")
if ms>0 then function delay() return ms end end
local threads={}
function setup(thread) table.insert(threads,thread) end
function init(args) ok=0; full=0; other=0 end
function response(status) if status==200 then ok=ok+1 elseif status==429 then full=full+1 else other=other+1 end end
function done(summary) local o,f,x=0,0,0; for _,t in ipairs(threads) do o=o+t:get("ok"); f=f+t:get("full"); x=x+t:get("other") end
 print(string.format("200: %d (%.1f/s)  429: %d (%.1f/s) other: %d errors: %d", o, o/summary.duration*1e6, f, f/summary.duration*1e6, x, summary.errors.connect+summary.errors.read+summary.errors.write+summary.errors.timeout)) end
