"""Work on stored data beside the job: late windows, sweeps, occlusion, back-fill, bootstrap."""
