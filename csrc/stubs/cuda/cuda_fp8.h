// Empty: nothing used here mentions fp8 types.
#pragma once
