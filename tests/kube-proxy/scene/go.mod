module weft.invalid/scene

go 1.18

require (
	k8s.io/api v0.23.3
	k8s.io/utils v0.0.0-20211116205334-6203023598ed
	sigs.k8s.io/yaml v1.2.0
)
