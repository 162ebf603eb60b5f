# Targets: see `make help`. VENV= is where to install, PYTHON= what to install with.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= output
WORKERS ?= 2

run = '$(VENV)/bin/python'
reproduce = $(run) tools/reproduce.py --workers $(WORKERS) --output

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-lowest lint msfc msfc-rates msfc-anchors msfc-levels photo-scenes msfc-photo \
	baf baf-photos mtl mtl-scenes mtl-photo benchmark

help:
	@echo 'make quickstart    install, then train, evaluate and plot a small network (10 to 30 minutes on 2 cores)'
	@echo 'make test          install, then run the tests'
	@echo 'make test-slow     the tests and the slow proofs'
	@echo 'make test-lowest   tests of operations and codecs with the lowest versions of setup.py (6 GB, removed)'
	@echo 'make lint          check the style and the types of the public API'
	@echo 'make msfc          the long run: rates and accuracy for many settings (two hours; resumable)'
	@echo 'make msfc-rates    every rate from one network, against the compressed image (40 minutes; resumable)'
	@echo 'make msfc-anchors  the long run against FCTM v1 and L-MSFC (two hours after make msfc; resumable)'
	@echo 'make msfc-levels   which level of the pyramid matters: noise on each (10 minutes)'
	@echo 'make photo-scenes  build the data set of real pixels from three Debian packages'
	@echo 'make msfc-photo    MSFC and images on that data set, from ImageNet weights, three seeds (an hour a seed; resumable)'
	@echo 'make baf           BaF on YOLO-v3-tiny, all trained here (8 to 20 minutes)'
	@echo 'make baf-photos    BaF on YOLO-v3-tiny with COCO weights, on COCO images and video frames (hours;'
	@echo '                   resumable; downloads two Debian packages; see projects/BaF/README.md)'
	@echo 'make mtl           three tasks on compressible features, a short comparison with pictures (7 minutes)'
	@echo 'make mtl-scenes    the same with both encoders and three seeds (an hour; resumable)'
	@echo 'make mtl-photo     the same on real pixels, from ImageNet weights, with five seeds, and on real stereo pairs'
	@echo '                   (an hour; resumable; downloads Debian packages; see projects/CompressibleMTL/README.md)'
	@echo 'make benchmark     speed, as ratios (8 minutes)'
	@echo
	@echo 'VENV=$(VENV) is where to install, PYTHON=$(PYTHON) what to install with,'
	@echo 'WORKERS=$(WORKERS) how many processes train networks, and then measure them,'
	@echo 'OUTPUT=$(OUTPUT) where results go, DETECTRON2_DATASETS where data sets are (default: datasets).'

install:
	@sh tools/install.sh '$(PYTHON)' '$(VENV)'

quickstart: install
	$(reproduce) '$(OUTPUT)/quickstart' projects/MSFC/quickstart.yaml

test: install
	$(run) -m pytest -c tests/pytest.ini --rootdir . -m 'not slow' tests

test-slow: install
	$(run) -m pytest -c tests/pytest.ini --rootdir . tests

test-lowest:
	@sh tools/test_lowest.sh '$(PYTHON)'

lint: install
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy

msfc: install
	$(reproduce) '$(OUTPUT)/msfc' projects/MSFC/scenes.yaml
	$(reproduce) '$(OUTPUT)/msfc-long' projects/MSFC/scenes_long.yaml

msfc-rates: install
	$(reproduce) '$(OUTPUT)/msfc-rates' projects/MSFC/rates.yaml

msfc-anchors: install
	$(reproduce) '$(OUTPUT)/msfc-anchors' projects/MSFC/scenes_long_anchors.yaml --trainings '$(OUTPUT)/msfc-long'

msfc-levels: quickstart
	$(run) projects/MSFC/level_noise.py --config-file configs/quick/msfc_R18.yaml \
		--output '$(OUTPUT)/msfc-levels' MODEL.WEIGHTS '$(OUTPUT)/quickstart/trainings/plain/model_final.pth'
	$(run) projects/MSFC/level_noise.py --config-file configs/quick/msfc_R18.yaml --relative --variance 1 \
		--output '$(OUTPUT)/msfc-levels-relative' \
		MODEL.WEIGHTS '$(OUTPUT)/quickstart/trainings/plain/model_final.pth'

photo-scenes: install
	sh tools/make_photo_scenes.sh $(run)

msfc-photo: photo-scenes
	sh tools/make_efficientnet_lite.sh $(run)
	$(reproduce) '$(OUTPUT)/msfc-photo' projects/MSFC/photo_scenes_pretrained.yaml

baf: install
	$(reproduce) '$(OUTPUT)/baf' projects/BaF/quickstart.yaml

baf-photos: install
	sh projects/BaF/make_photos.sh $(run)
	$(reproduce) '$(OUTPUT)/baf-coco' projects/BaF/coco.yaml
	$(reproduce) '$(OUTPUT)/baf-video' projects/BaF/video.yaml --trainings '$(OUTPUT)/baf-coco'
	$(reproduce) '$(OUTPUT)/baf-split-points' projects/BaF/split_points.yaml
	$(reproduce) '$(OUTPUT)/baf-quarter' projects/BaF/quarter.yaml

mtl: install
	$(reproduce) '$(OUTPUT)/mtl' projects/CompressibleMTL/quickstart.yaml

mtl-scenes: install
	$(reproduce) '$(OUTPUT)/mtl-scenes' projects/CompressibleMTL/scenes.yaml
	$(reproduce) '$(OUTPUT)/mtl-scenes-encoder1' projects/CompressibleMTL/scenes_encoder1.yaml

mtl-photo: photo-scenes
	sh tools/make_efficientnet_lite.sh $(run)
	sh projects/CompressibleMTL/make_middlebury.sh $(run)
	$(reproduce) '$(OUTPUT)/mtl-photo' projects/CompressibleMTL/photo_scenes.yaml
	$(reproduce) '$(OUTPUT)/mtl-middlebury' projects/CompressibleMTL/middlebury.yaml \
		--trainings '$(OUTPUT)/mtl-photo'

benchmark: install
	$(run) tools/benchmark.py --output '$(OUTPUT)/benchmark.json'
