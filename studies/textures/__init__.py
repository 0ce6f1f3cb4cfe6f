"""Would features of dynamic textures see faults of motion better than those of FVD do?

The paper's DT-FVD has an I3D trained on dynamic textures, which is not public. The substitute here,
which is not DT-FVD, is FVD's I3D, frozen, and a small head that learned to tell families of motion
apart. Faults are made on another wind, and judged against that wind without the fault, made in the
same way (frames of the world, or the photo rendered): what remains is the fault.

    python -m studies.textures learn -o DIR --clips DIR --sprites DIR --weights DIR
    python -m studies.textures compare -o DIR
"""
