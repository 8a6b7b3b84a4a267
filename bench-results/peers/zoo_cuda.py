"""zoo_cuda.py [--compile] NAME ...: ms of a pass of torchvision's networks in f16 on a card, channels last: eager and as a CUDA
graph, or by torch.compile."""
import sys

import torch, torchvision

torch.backends.cudnn.benchmark=True
def graph(m,x):
    with torch.inference_mode():
        for _ in range(3): m(x)
        s=torch.cuda.Stream(); g=torch.cuda.CUDAGraph()
        with torch.cuda.stream(s):
            m(x)
            with torch.cuda.graph(g,stream=s): m(x)
    return g.replay
def t(f,n=20):
    for _ in range(3): f()
    ts=[]
    for _ in range(5):
        a,b=torch.cuda.Event(True),torch.cuda.Event(True); a.record()
        for _ in range(n): f()
        b.record(); b.synchronize(); ts.append(a.elapsed_time(b)/n)
    return sorted(ts)[2]
names=[name for name in sys.argv[1:] if name!="--compile"]
for name in names:
    opts={"init_weights":False} if name in("googlenet","inception_v3") else {}
    m=getattr(torchvision.models,name)(**opts).eval().cuda().half().to(memory_format=torch.channels_last)
    for b in (1,32):
        x=torch.randn(b,3,224,224,device="cuda",dtype=torch.half).to(memory_format=torch.channels_last)
        if "--compile" in sys.argv:
            torch.compiler.reset()
            fast=torch.compile(m,mode="max-autotune",dynamic=False)
            with torch.inference_mode(): print(f"{name} {b} compiled {t(lambda: fast(x)):.3f} ms",flush=True)
            continue
        with torch.inference_mode():
            e=t(lambda: m(x)); g=t(graph(m,x))
        print(f"{name} {b} eager {e:.3f} graph {g:.3f} ms",flush=True)
