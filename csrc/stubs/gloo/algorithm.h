// Empty: see gloo/context.h beside this.
#pragma once
