"""The Dockerfiles that users build, and what is built here in their place (no container engine, no registry), say the same."""

import pytest

import images


@pytest.mark.parametrize("package", images.PACKAGES)
def test_the_program_is_built_as_the_dockerfile_builds_it(package):
    features, program = images.PACKAGES[package]
    wanted = [f"RUSTFLAGS={images.RUSTFLAGS}", "cargo", "build", "--release", "--locked", "-p", package]
    wanted += ["--features", ",".join(features)] if features else []
    assert images.first_stage(images.ROOT / package / "Dockerfile") == [*wanted, "--target", "$target"]
    destination, config = images.last_stage(images.ROOT / package / "Dockerfile")
    assert destination == f"/usr/bin/{program}" and config["Entrypoint"] == [destination]
    # Numbers, so that Kubernetes can see that it is not root.
    assert config["User"] == "65532:65532"
